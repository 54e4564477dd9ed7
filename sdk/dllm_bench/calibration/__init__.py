"""`calibrate`: which settings of a scheduler pay, found on some prompts and checked on others. Begin at `running`."""
