"""The regular work of a serving process, beside deliveries and events."""
