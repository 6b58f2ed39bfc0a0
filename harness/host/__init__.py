"""What every floor stands on: errors, deadlines, child processes, directories, progress, shared services."""
