"""What the end-to-end tests share: a broker process, small clients that show every byte, and waiting."""
