package check

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// childEnv makes the test binary a program that a script check runs.
const childEnv = "CHECK_TEST_CHILD"

func TestMain(m *testing.M) {
	switch os.Getenv(childEnv) {
	case "":
		goleak.VerifyTestMain(m)
		return
	case "hang":
		fmt.Println("hanging")
		time.Sleep(time.Hour)
	case "say":
		fmt.Println(os.Args[1], os.Getenv("SERVICE_IP"), os.Getenv("SERVICE_PORT"))
		os.Exit(1)
	case "flood":
		line := make([]byte, 1<<16)
		for i := range line {
			line[i] = 'x'
		}
		for range 64 {
			os.Stdout.Write(line)
		}
		os.Exit(2)
	}
}
