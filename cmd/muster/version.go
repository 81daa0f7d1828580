package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/musterhq/muster/internal/buildinfo"
)

// versionInfo is what `muster version` prints.
type versionInfo buildinfo.Info

func readVersion() versionInfo { return versionInfo(buildinfo.Read()) }

// String is one line: the version, the commit and its date if they are known, and what the
// program was built by and for.
func (v versionInfo) String() string {
	parts := []string{"muster", v.Version}
	if v.Revision != "" {
		commit := "commit " + v.Revision[:min(12, len(v.Revision))]
		if v.Modified {
			commit += " modified"
		}
		if date, _, ok := strings.Cut(v.Time, "T"); ok {
			commit += " of " + date
		}
		parts = append(parts, "("+commit+")")
	}
	return strings.Join(append(parts, v.Go, v.OS+"/"+v.Arch), " ")
}

func newVersionCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Show the version of this program",
		Long: `Show the version of this program, the commit that it was built from with its date, and
the version of Go and the system that it was built by and for.`,
		Example: `  muster version
  muster version -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkOutput(output, "text", "json"); err != nil {
				return err
			}
			v := readVersion()
			if output == "json" {
				return printJSON(cmd.OutOrStdout(), v)
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), v)
			return err
		},
	}
	addOutputFlag(cmd, &output, "text", "json")
	return cmd
}
