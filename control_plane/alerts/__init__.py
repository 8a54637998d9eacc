"""What a person should look at: found, kept until it is over, and told to others."""
