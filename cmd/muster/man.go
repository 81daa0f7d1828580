//go:build musterdoc

package main

import (
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// The program that make release runs to write the manual pages. Built with a tag, so that the
// one that is shipped links neither this command nor what makes the pages.
func init() {
	extraCommands = append(extraCommands, newManCommand)
}

func newManCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "man DIR",
		Short:  "Write the manual pages of all commands",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			v := readVersion()
			date, err := time.Parse(time.RFC3339, v.Time)
			if err != nil {
				return err
			}
			root := cmd.Root()
			root.DisableAutoGenTag = true // it would name the day of the build
			return doc.GenManTree(root, &doc.GenManHeader{Title: "MUSTER", Section: "1", Source: "muster " + v.Version, Manual: "Muster", Date: &date}, args[0])
		},
	}
}
