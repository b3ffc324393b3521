"""What a reader moves: plain states, and one HTML fragment that shows a state with no kernel and no network."""
