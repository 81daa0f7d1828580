package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	"github.com/musterhq/muster/agent"
	"github.com/musterhq/muster/agent/doctor"
	"github.com/musterhq/muster/config"
	"github.com/musterhq/muster/node/httpapi"
)

// memberFindings is what one member has found. It only gains fields.
type memberFindings struct {
	NodeID   string           `json:"node_id"`
	Findings []doctor.Finding `json:"findings"`
	// Error says why there are no findings.
	Error string `json:"error,omitempty"`
	// NoAgent says that the member is no agent, and so has no findings.
	NoAgent bool `json:"no_agent,omitempty"`
}

// doctorAll has the agents of all members make their checks.
func doctorAll(cmd *cobra.Command, file string) error {
	output, err := cmd.Flags().GetString("output")
	if err != nil {
		return err
	}
	timeout, err := cmd.Flags().GetDuration("timeout")
	if err != nil {
		return err
	}
	if err := checkDoctorFlags(output, timeout); err != nil {
		return err
	}
	cfg, err := loadConfigFor(cmd, file, config.ForNode)
	if err != nil {
		return err
	}
	if !cfg.TLS.Enabled() {
		return fmt.Errorf("--all: %w", agent.ErrNoMutualTLS)
	}
	own, err := ownAgent(agentService, cfg.HTTP)
	if err != nil {
		return usageError(fmt.Errorf("http: %w; --all asks the agent there", err))
	}
	own.source = file
	replies, err := own.call(cmd.Context(), agent.MethodDoctor, httpapi.CallAll, timeout, []byte("{}"))
	if err != nil {
		return err
	}
	all := make([]memberFindings, len(replies))
	for i, r := range replies {
		all[i] = findingsOf(r)
	}
	return reportAll(cmd.OutOrStdout(), output, timeout, all)
}

func findingsOf(r httpapi.CallReply) memberFindings {
	m := memberFindings{NodeID: r.NodeID, Findings: []doctor.Finding{}, Error: r.Error}
	switch {
	case r.State == httpapi.CallNotRun && r.Code == codes.Unimplemented.String():
		m.NoAgent = true
	case r.State != httpapi.CallAnswered:
	default:
		if err := json.Unmarshal(r.Answer, &m.Findings); err != nil {
			m.Error = "its answer cannot be read: " + err.Error()
		}
	}
	return m
}

// reportAll prints what all members have found, and fails where something has failed.
func reportAll(w io.Writer, output string, timeout time.Duration, all []memberFindings) error {
	if output == "json" {
		if err := printJSON(w, all); err != nil {
			return err
		}
	}
	failed, checks := 0, 0
	var silent []string
	for i, m := range all {
		if output != "json" {
			if err := printMemberFindings(w, i, m); err != nil {
				return err
			}
		}
		if m.Error != "" && !m.NoAgent {
			silent = append(silent, cell(m.NodeID))
		}
		checks += len(m.Findings)
		for _, f := range m.Findings {
			if f.Status == doctor.Fail {
				failed++
			}
		}
	}
	switch {
	case len(silent) > 0:
		return fmt.Errorf("%d of %d checks failed, and %d of %d members were not examined within %v: %s",
			failed, checks, len(silent), len(all), timeout, strings.Join(silent, ", "))
	case failed > 0:
		return fmt.Errorf("%d of %d checks failed, on %d members", failed, checks, len(all))
	}
	return nil
}

func printMemberFindings(w io.Writer, i int, m memberFindings) error {
	if i > 0 {
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "%s\n", cell(m.NodeID))
	switch {
	case m.NoAgent:
		fmt.Fprintln(w, "warn  it is no agent, and has not been examined")
	case m.Error != "":
		fmt.Fprintf(w, "fail  it has not been examined: %s\n", cell(m.Error))
	}
	return printFindings(w, m.Findings)
}
