"""Watching requests: events of both ends on one time line, files of them, and pictures of one request's way."""
