// Package mastership elects one master of a cluster and tells everybody who it is.
package mastership
