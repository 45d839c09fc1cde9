"""What is everybody's: errors, texts, files, signals."""
