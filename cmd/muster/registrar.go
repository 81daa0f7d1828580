package main

import "github.com/spf13/cobra"

func newRegistrarCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "registrar",
		Short: "Register the containers of a Docker host",
	}
	cmd.AddCommand(newExplainCommand())
	return cmd
}
