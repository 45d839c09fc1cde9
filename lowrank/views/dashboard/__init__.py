"""W&B workspaces that tell the story of a project or a sweep: built, saved, built anew."""
