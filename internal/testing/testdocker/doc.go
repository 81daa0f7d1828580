// Package testdocker runs containers of a real engine for the tests of Muster.
//
//	engine := testdocker.Require(t)
//	image := engine.Build("./cmd/muster")
//	c := engine.Run(testdocker.Options{Image: image, Flags: []string{"-p", "0:7946"}}, "agent")
//	c.WaitLog("ready")
//
// Nothing is pulled: an image is one static program and nothing else. What a test has
// made goes when it ends, also where an earlier run was killed an hour ago and more.
// The log of a container is shown if its test failed.
//
// Where no engine answers, the tests are skipped; with MUSTER_REQUIRE_DOCKER=1 they fail.
//
// The functions end the test where they fail. They call the docker command, so that a
// test says what a user would type.
package testdocker
