"""The spectra of weights that lie in files: what ``lowrank spectra`` reads, computes and shows."""
