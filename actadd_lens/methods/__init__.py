"""Ways of reading an intervention from a model, one file each, each with its paper."""
