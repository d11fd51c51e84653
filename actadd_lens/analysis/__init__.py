"""Analysis: what a steering vector is, how large it is, what it moves, and which parts of the model read it."""
