//! Tests of the roles.
