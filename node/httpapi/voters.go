package httpapi

import (
	"context"
	"errors"
	"net/http"

	"github.com/musterhq/muster/discovery/driver"
	"github.com/musterhq/muster/internal/routes"
)

// Voters is what the agent that was asked knows of the voters.
type Voters struct {
	// Voters are those that are listed or in force, by address.
	Voters []Voter `json:"voters"`
	// Warning is what an operator should fix.
	Warning string `json:"warning,omitempty"`
}

// Voter is one voter, as the agent that was asked knows it.
type Voter struct {
	// Addr is its entry in the list.
	Addr string `json:"addr"`
	// Self marks the agent that was asked.
	Self bool `json:"self"`
	// Listed says that it is in the agent's list, and Votes that its vote counts.
	Listed bool `json:"listed"`
	Votes  bool `json:"votes"`
	// Reached says that it answered when it was asked last, and Problem why not.
	Reached bool   `json:"reached"`
	Problem string `json:"problem,omitempty"`
	// Leader marks the one that leads the voters.
	Leader bool `json:"leader"`
	// State is observer, empty, fresh or established; missing where it is not reached.
	State string `json:"state,omitempty"`
	// Term and ClusterID are of the last mastership that it remembers, and Founding tells
	// its cluster from others of the same name.
	Term      uint64 `json:"term,omitempty"`
	ClusterID string `json:"cluster_id,omitempty"`
	Founding  string `json:"founding,omitempty"`
	// Behind is how many entries of the leader's log it does not have; missing where that
	// is not known.
	Behind *uint64 `json:"behind,omitempty"`
}

func votersOf(v driver.Voters) Voters {
	out := Voters{Voters: []Voter{}, Warning: v.Warning}
	for _, v := range v.Voters {
		voter := Voter{
			Addr: v.Addr, Self: v.Self, Listed: v.Listed, Votes: v.Votes, Reached: v.Reached, Problem: v.Problem,
			Leader: v.Leader, State: v.State, Term: uint64(v.Term), ClusterID: v.ClusterID, Founding: v.Founding,
		}
		if v.Known {
			voter.Behind = &v.Behind
		}
		out.Voters = append(out.Voters, voter)
	}
	return out
}

func (s *server) voters(w http.ResponseWriter, _ *http.Request) {
	voters, ok := s.node.Voters()
	if !ok {
		routes.WriteError(w, http.StatusNotFound, errors.New("no provider of this agent has voters; they are those of provider.static"))
		return
	}
	routes.WriteJSON(w, http.StatusOK, votersOf(voters))
}

// foundVoters has the agent found a cluster without the voters that do not answer. It is
// one request: nothing of it stays.
func (s *server) foundVoters(ctx context.Context) (any, error) {
	if err := s.node.FoundVoters(ctx); err != nil {
		return nil, err
	}
	voters, _ := s.node.Voters()
	return votersOf(voters), nil
}

// statusOfFounding is the status of the answer where founding has failed.
func statusOfFounding(err error) int {
	switch {
	case errors.Is(err, driver.ErrConflict):
		return http.StatusConflict
	case errors.Is(err, driver.ErrUnavailable):
		return http.StatusServiceUnavailable
	}
	return http.StatusBadRequest
}
