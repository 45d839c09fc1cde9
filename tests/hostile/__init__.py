"""Input made to harm: one file for each kind of it.

Whatever is given, a program ends with its exit code and lines of text: no traceback, no code of
others run, nothing written elsewhere, in bounded time and memory. Generated input is the same in
every run of the tests.
"""
