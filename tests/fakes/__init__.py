"""Stand-ins for what is outside; they keep what they are sent."""
