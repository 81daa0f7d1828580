package config

import (
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/crontab"
)

// Job is a command that an agent runs when its schedule says so.
type Job struct {
	// Name is unique. Mandatory.
	Name string `yaml:"name" usage:"name of the job"`
	// Schedule is a cron expression in TimeZone. Empty: the command runs when it is triggered, and
	// for jobs that are added at run time, as with @never.
	Schedule string `yaml:"schedule" usage:"cron expression"`
	TimeZone string `yaml:"time_zone" usage:"time zone of the schedule"`
	// Command is the program and its arguments, which are run without a shell. Mandatory.
	Command []string `yaml:"command" usage:"program and its arguments"`
	// Timeout bounds a run. 0: none.
	Timeout time.Duration `yaml:"timeout" usage:"how long a run may take"`
	// Missed is MissedSkip or MissedOnce. Empty: MissedSkip.
	Missed string `yaml:"missed" usage:"what becomes of a run that was missed: skip or once"`
	// Window is how old the missed one may be that MissedOnce runs. 0: the interval of the
	// schedule, an hour at most.
	Window time.Duration `yaml:"window" usage:"how old a missed run may be that is caught up with"`
	// Where is OnMaster or OnAll. Empty: OnMaster.
	Where string `yaml:"where" usage:"where it runs: master or all"`
}

// The values of Job.Missed and Job.Where.
const (
	MissedSkip = "skip"
	MissedOnce = "once"
	OnMaster   = "master"
	OnAll      = "all"
)

// The bounds of jobs.
const (
	maxJobs       = 1000
	maxJobWindow  = 366 * 24 * time.Hour
	maxJobTimeout = 366 * 24 * time.Hour
)

// isJobName reports whether name is one of a job.
func isJobName(name string) bool { return jobName.MatchString(name) && strings.Trim(name, ".") != "" }

var jobName = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)

// problemOf is what is wrong with an expression.
func problemOf(err error) string {
	if wrong := (*crontab.Error)(nil); errors.As(err, &wrong) {
		return wrong.Problem
	}
	return err.Error()
}

// validateJobs checks the jobs of an agent.
func (l *loader) validateJobs() {
	seen := make(map[string]int)
	if n := len(l.config.Jobs); n > maxJobs {
		l.bad("jobs", strconv.Itoa(n), "too many", fmt.Sprintf("write %d at most", maxJobs))
		return
	}
	for i, j := range l.config.Jobs {
		at := fmt.Sprintf("jobs[%d]", i)
		if l.problems.at(at) {
			continue
		}
		if first, twice := seen[j.Name]; !isJobName(j.Name) {
			l.bad(at+".name", j.Name, "not a name", "write up to 64 letters, digits, dots, dashes and underscores, as name: report")
		} else if twice {
			l.bad(at+".name", j.Name, fmt.Sprintf("the name of jobs[%d]", first), "write another name")
		} else {
			seen[j.Name] = i
		}
		zone, err := crontab.Location(j.TimeZone)
		if err != nil {
			l.bad(at+".time_zone", j.TimeZone, "not a time zone: "+err.Error(), "write one such as Europe/Berlin, or leave it out for UTC")
		}
		if err != nil {
			zone = time.UTC // so that the schedule is read all the same
		}
		if j.Schedule != "" {
			if _, err := crontab.Parse(j.Schedule, zone); err != nil {
				l.bad(at+".schedule", j.Schedule, problemOf(err), "write minute, hour, day of month, month and day of week, as 30 2 * * *, or @daily, or @every 10m")
			}
		}
		if len(j.Command) == 0 || j.Command[0] == "" {
			l.bad(at+".command", "", "missing", `write the program and its arguments, as command: ["/usr/local/bin/report", "--all"]`)
		}
		if j.Timeout < 0 || j.Timeout > maxJobTimeout {
			l.bad(at+".timeout", j.Timeout.String(), "out of range", "write a duration, as 30m, or leave it out for none")
		}
		if j.Missed != "" {
			l.oneOf(at+".missed", j.Missed, MissedSkip, MissedOnce)
		}
		switch {
		case j.Window < 0 || j.Window > maxJobWindow:
			l.bad(at+".window", j.Window.String(), "out of range", fmt.Sprintf("write a duration up to %v", maxJobWindow))
		case j.Window > 0 && j.Missed != MissedOnce && !l.problems.has(at+".missed"):
			l.bad(at+".window", j.Window.String(), "means nothing unless missed is once", "write missed: once, or leave it out")
		}
		if j.Where != "" {
			l.oneOf(at+".where", j.Where, OnMaster, OnAll)
		}
		if j.Where == OnAll && j.Missed == MissedOnce {
			l.bad(at+".missed", j.Missed, "does not go with where: all, of which nothing is recorded", "leave it out")
		}
	}
}

// MissingPrograms returns an *Error for each job whose program this process could not execute now.
// Nothing is wrong with the configuration by that: a program may be installed later, and the agent
// may have another PATH, or another directory.
func (c *Config) MissingPrograms() (missing []error) {
	for i, j := range c.Jobs {
		if len(j.Command) == 0 {
			continue
		}
		_, err := exec.LookPath(j.Command[0])
		if err == nil || errors.Is(err, exec.ErrDot) {
			continue
		}
		missing = append(missing, c.Locate(&driver.ConfigError{
			Key: fmt.Sprintf("jobs[%d].command", i), Value: j.Command[0], Problem: "the program of job " + j.Name + " cannot be executed here: " + errors.Unwrap(err).Error(),
			Hint: "install it where the agent runs, or correct its path",
		}))
	}
	return missing
}
