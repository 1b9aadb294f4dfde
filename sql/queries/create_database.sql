-- Create the database of the embedded server.
create database checkpointd
