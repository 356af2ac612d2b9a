"""The commands of the command line, one module each; a run imports the one that it is."""
