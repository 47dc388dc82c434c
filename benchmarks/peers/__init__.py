"""What people write without this project, as short and as good as its own documentation suggests."""
