"""How the embedded model is made: prepare text, train, export. Not part of the installed package."""
