"""Pages: one HTML file of a result, to be mailed or put on the web. They take results and run no model."""
