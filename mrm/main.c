/* main.c - mrm, the model resource manager: settings, then the daemon until it is told to stop.
 * Exit codes: 0 stopped as asked, 1 could not start or left in the middle of transfers, 2 the settings are wrong. */
#include "mrm/config.h"
#include "mrm/daemon.h"
#include "shared/check.h"
#include "shared/log.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void dump_log(void)
{
	log_dump_ring(STDERR_FILENO);
}

static int run(struct config *config, int argc, char **argv)
{
	struct daemon *d;
	struct fault why = {0};
	if (daemon_new(&d, config, argc, argv, &why)) {
		log_error("main", "cannot start: %s", why.text);
		config_free(&config);
		return 1;
	}
	int code = daemon_run(d);
	daemon_free(&d);
	log_info("main", "stopped");
	return code;
}

int main(int argc, char **argv)
{
	struct config *config;
	struct fault why = {0};
	enum config_action action;
	enum log_level level;
	signal(SIGPIPE, SIG_IGN);
	check_set_panic_hook(dump_log);
	if (config_load(&config, argc, argv, &action, &why)) {
		fprintf(stderr, "mrm: %s\n", why.text);
		return 2;
	}
	if (!log_level_parse(config->log_level, &level))
		log_set_level(level);
	int code = 0;
	switch (action) {
	case CONFIG_RUN:
		return run(config, argc, argv);
	case CONFIG_PRINT:
		config_print(config, stdout);
		break;
	case CONFIG_HELP:
		config_help(stdout);
		break;
	case CONFIG_VERSION:
		puts("mrm " TRIMS_VERSION);
		break;
	case CONFIG_CHECK:
		if (daemon_check(config, &why)) {
			fprintf(stderr, "mrm: %s\n", why.text);
			code = 2;
		} else {
			puts("the settings are fine");
		}
		break;
	}
	config_free(&config);
	return code;
}
