"""The tutorials of docs/tutorials: cells are run, what came out is kept, pages are made of it.

A tutorial is a Markdown file. Its ``python`` and ``console`` blocks are cells that run from top to
bottom, as a notebook's do; other blocks are only shown. What they printed and drew is recorded, so
that the documentation is built in seconds and shows what a real run gave, and so that a test can
tell when text and record are no longer of one piece. (A kernel for each page, as Jupyter has it,
would import torch again for each, in every build.)
"""
