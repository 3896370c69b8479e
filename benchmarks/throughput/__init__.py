"""Images per second beside the rivals, floors and what is achieved of them."""
