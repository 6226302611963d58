"""What is done with agents: runs and their directories, the command line, scores, figures, probes,
reports."""
