"""What the commands and the operations page show and do alike."""
