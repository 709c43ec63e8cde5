"""From answers to tracks and events that live on between them."""
