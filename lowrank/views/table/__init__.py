"""Many runs as one table: what each reached, which settings vary, which runs are replicates."""
