"""What the HTTP of all doors shares: routes, authentication, errors, audit and measuring."""
