"""What only the export of the paper's model needs."""
