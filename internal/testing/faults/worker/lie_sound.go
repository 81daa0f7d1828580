//go:build !musterfault

package main

import (
	"context"

	"github.com/musterhq/muster/node"
)

func lie(context.Context, *node.Node) {}
