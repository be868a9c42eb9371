"""The commands of operators: clients of toril's public API, under the rights of the token in use."""
