"""What only the export of the `edge` model needs."""
