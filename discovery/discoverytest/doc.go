// Package discoverytest holds a discovery provider to the contract of package
// discovery/driver, and ships a provider in memory for the tests of programs that
// use package discovery.
package discoverytest
