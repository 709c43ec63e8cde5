"""From successive answers of a standing query to tracks and events."""
