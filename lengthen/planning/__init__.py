"""What a configuration will do and how long it will take, before it runs."""
