"""What reads the values of a picture file truly, each kind of file by the library that can."""
