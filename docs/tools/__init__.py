"""What makes the site of docs/ from the repository; `make docs`."""
