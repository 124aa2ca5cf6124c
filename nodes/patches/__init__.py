"""Nodes that apply, merge, describe and save patches."""
