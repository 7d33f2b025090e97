//! Records on Amazon DynamoDB.
