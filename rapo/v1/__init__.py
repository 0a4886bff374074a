"""Generated from protos/rapo/v1 by protos/generate.py; do not edit."""
