"""What lies under everything: Accelerate, signals, files, words for people; imports nothing of ours."""
