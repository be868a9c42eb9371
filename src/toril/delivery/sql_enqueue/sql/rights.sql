-- PostgreSQL lets everybody execute a new function. Here a right has to be granted.
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA toril FROM PUBLIC;
