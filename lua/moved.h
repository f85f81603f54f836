/* moved.h - names that modules had before they stood in rooms. require raises an error that names the new one. */
#ifndef MOCL_MOVED_H
#define MOCL_MOVED_H

/* the old name, the new one; sorted */
#define MOCL_MOVED(X) \
    X("mocl.agent", "mocl.world.agent") \
    X("mocl.chat", "mocl.lm.chat") \
    X("mocl.chat_templates", "mocl.lm.chat_templates") \
    X("mocl.checkpoint", "mocl.run.checkpoint") \
    X("mocl.config", "mocl.run.config") \
    X("mocl.config_text", "mocl.run.config_text") \
    X("mocl.control", "mocl.method.control") \
    X("mocl.control_log", "mocl.method.control_log") \
    X("mocl.control_target", "mocl.method.control") \
    X("mocl.data_prefs", "mocl.data.prefs") \
    X("mocl.digest", "mocl.run.digest") \
    X("mocl.env", "mocl.world") \
    X("mocl.env.core", "mocl.world.core") \
    X("mocl.env.deep_sea_treasure", "mocl.world.worlds.deep_sea_treasure") \
    X("mocl.env.fishwood", "mocl.world.worlds.fishwood") \
    X("mocl.env.fruit_tree", "mocl.world.worlds.fruit_tree") \
    X("mocl.env.fruit_tree_leaves", "mocl.world.worlds.fruit_tree_leaves") \
    X("mocl.from_run", "mocl.run.from_run") \
    X("mocl.gguf", "mocl.lm.gguf") \
    X("mocl.gguf_keys", "mocl.lm.gguf_keys") \
    X("mocl.gguf_model", "mocl.lm.gguf_model") \
    X("mocl.kl_controller", "mocl.method.kl_controller") \
    X("mocl.learner", "mocl.train.trainer") \
    X("mocl.lm", "mocl.lm.sft") \
    X("mocl.lora", "mocl.lm.lora") \
    X("mocl.lora_config", "mocl.lm.lora_config") \
    X("mocl.memory_plan", "mocl.lm.memory_plan") \
    X("mocl.metrics_bootstrap", "mocl.metrics.bootstrap") \
    X("mocl.metrics_sets", "mocl.metrics.sets") \
    X("mocl.model_config", "mocl.lm.model_config") \
    X("mocl.model_files", "mocl.lm.model_files") \
    X("mocl.model_keys", "mocl.lm.model_keys") \
    X("mocl.own_model", "mocl.lm.own_model") \
    X("mocl.policy", "mocl.lm.policy") \
    X("mocl.ppo", "mocl.method.ppo") \
    X("mocl.progress", "mocl.run.progress") \
    X("mocl.report_curves", "mocl.report.curves") \
    X("mocl.report_env", "mocl.report.worlds") \
    X("mocl.report_front", "mocl.report.front") \
    X("mocl.report_html", "mocl.report.html") \
    X("mocl.report_results", "mocl.report.results") \
    X("mocl.report_samples", "mocl.report.samples") \
    X("mocl.reward", "mocl.lm.reward") \
    X("mocl.rollout", "mocl.world.rollout") \
    X("mocl.run_cures", "mocl.run.cures") \
    X("mocl.run_identity", "mocl.run.identity") \
    X("mocl.run_inputs", "mocl.run.inputs") \
    X("mocl.run_lock", "mocl.run.lock") \
    X("mocl.run_logs", "mocl.run.logs") \
    X("mocl.run_options", "mocl.run.options") \
    X("mocl.running", "mocl.method.running") \
    X("mocl.solvers", "mocl.method.solvers") \
    X("mocl.solvers_linear", "mocl.method.solvers_linear") \
    X("mocl.solvers_problem", "mocl.method.solvers_problem") \
    X("mocl.sources", "mocl.data.sources") \
    X("mocl.stages", "mocl.train.stages") \
    X("mocl.svg", "mocl.report.svg") \
    X("mocl.svg_front", "mocl.report.svg_front") \
    X("mocl.tasks.assistant", "mocl.data.tasks.assistant") \
    X("mocl.tasks.assistant.answers", "mocl.data.tasks.assistant.answers") \
    X("mocl.tasks.assistant.pairs", "mocl.data.tasks.assistant.pairs") \
    X("mocl.tasks.assistant.rule", "mocl.data.tasks.assistant.rule") \
    X("mocl.tasks.assistant.texts", "mocl.data.tasks.assistant.texts") \
    X("mocl.tasks.assistant.words", "mocl.data.tasks.assistant.words") \
    X("mocl.text_table", "mocl.run.text_table") \
    X("mocl.trainer", "mocl.lm.supervised") \
    X("mocl.training", "mocl.train.loop") \
    X("mocl.transformer", "mocl.lm.model")

#endif
