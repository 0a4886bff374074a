"""Images: safe decoding of untrusted files."""
