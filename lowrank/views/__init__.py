"""What a person sees of runs: tables, figures, report, dashboard, spectra of files."""
