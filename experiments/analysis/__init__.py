"""What is shown of runs: tables in the terminal, figures, reports, and looks into a memory."""
