"""What is measured of weights; needs torch and numpy only."""
